"""Tests of `assistant.chat`. They may import evaluation, for independent counts."""
