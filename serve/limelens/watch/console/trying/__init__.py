"""The page's tab for trying an image: any image, any model of the server, explained.

asked    what a visitor asks for, within bounds
trial    the calls: classify, then explain with progress
steps    the explanation's steps as images
desk     one trial at a time for each session; keeps the images of the last
"""
