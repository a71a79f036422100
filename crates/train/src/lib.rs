//! Losses, GradCache, samplers, schedules, optimisers and exact resume.
