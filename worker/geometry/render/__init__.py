"""Software renderers: good enough to show a scene to people and to test it, on any machine. Not real-time."""
