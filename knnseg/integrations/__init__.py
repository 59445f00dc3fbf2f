"""Results in labelling tools, one module a tool; what a tool needs is imported in its module alone."""
