"""What the benches time."""
