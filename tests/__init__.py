"""Tests of predecode; the folders mirror the package."""
