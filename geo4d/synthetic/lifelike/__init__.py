"""Worlds nearer to what everyday video shows: furnished rooms, tables full of things, people, animals, traffic, gardens."""
