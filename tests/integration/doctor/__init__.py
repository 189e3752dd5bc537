"""Tests of the doctor, one module per subject."""
