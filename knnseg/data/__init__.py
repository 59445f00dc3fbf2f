"""The values that flow between the stages: frozen, and they check themselves.

The letters of every shape in this package:

    H, W   height and width of an image, pixels        N   masks of one image
    h, w   height and width of a feature grid, cells   K   neighbours of one mask
    D      width of an embedding                       C   classes of the active vocabulary

    image (H,W,3) -> Features (D,h,w) -> Masks (N,H,W) -> Embeddings (N,D) -> Neighbours (N,K) -> ClassScores (N,C)
"""
