//! Exact search over named vectors, with payloads and pictures, committed atomically.
