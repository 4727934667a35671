"""Tables of images and labels: lines, cells, and which column means what.

It knows csv and tsv files, finds the images that they name, and reads none of them.
"""
