"""Opening a model: from a name (or none) to an engine that loads by a plan that fits."""
