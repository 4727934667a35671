"""Compares sessions in every process with sessions in one, which gets the others' images."""
