"""Worlds nearer to what everyday video shows.

Furnished rooms, tables full of things, people, animals, traffic, gardens.
"""
