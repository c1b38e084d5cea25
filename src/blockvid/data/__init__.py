"""Captioned videos to train on: encoded into shards, read back in an order that a seed decides.

docs/data.md takes a newcomer from a folder of clips to shards.
"""
