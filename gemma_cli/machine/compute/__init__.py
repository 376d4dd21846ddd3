"""The compute buffers of a context: llama.cpp's graph and allocator, replayed."""
