//! CPU compute: buffers, fused operations with their backward, and a small tape.
