"""The synthetic world: phantom chests, a tiny model, the demo and the study."""
