//! Models as data: encoder specs, one forward over the engine, weights and name maps.
