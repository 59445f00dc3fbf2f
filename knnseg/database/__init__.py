"""The shared memory: concepts and their examples, in any store."""
