def record(*a): return None
