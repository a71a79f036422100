//! Raw catalogues to datasets: readers, curation, splits and shards.
