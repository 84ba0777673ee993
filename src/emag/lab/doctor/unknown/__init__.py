"""Entries for networks that no family has, read from their own code and proven on a small instance: `emag doctor --unknown`.

What is found is printed, and never used by itself: whoever adds the file has read it.
"""
