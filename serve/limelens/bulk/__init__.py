"""Classifies, explains or embeds whole collections of images on Ray Data, into Parquet."""
