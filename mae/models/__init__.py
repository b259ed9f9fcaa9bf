"""Objectives and their parts."""
