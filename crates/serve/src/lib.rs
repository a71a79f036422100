//! HTTP: embeddings, search, health and the search page.
