"""Networks that published metrics are defined by, in tinygen's own operations; for their weights see ../weights.

inception.py    Inception-v3 as ported from TensorFlow for FID, with each of that port's quirks
trunks.py       the convolutional parts of AlexNet, VGG-16 and SqueezeNet 1.1
perceptual.py   LPIPS, on those
layers.py       what they are made of; loops.py its compiled parts
heads/          the published heads of LPIPS
"""
