"""The files that the names stand for: "FID" and "LPIPS" are said of these bytes and of no others.

SHA-256 of the published files. The first eight digits are in the files' own names (PyTorch's convention), except for
LPIPS' heads, whose digests are those of the files in the wheel lpips 0.1.4.
"""

# pt_inception-2015-12-05-6726825d.pth
FID_INCEPTION = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

TRUNKS = {
    "alex": "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",  # alexnet-owt-7be5be79.pth
    "vgg": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",  # vgg16-397923af.pth
    "squeeze": "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",  # squeezenet1_1-b8a52dc0.pth
}
HEADS = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "squeeze": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
}
