//! Inline SVG drawings.
