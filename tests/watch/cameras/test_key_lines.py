from __future__ import annotations

from limelens.watch.cameras.key_lines import key_lines


def test_lines_of_keys_in_tables_lists_and_statements_of_several_lines() -> None:
    found = key_lines(
        """# a comment = 1
top = '''
[no.table]
'''
server.address = "a"  # dotted

[mqtt.tls]
ca = "x"
[[camera]]
id = "a"
[[camera]]
region = [
  1,
]
  [camera.more]
  inline = {one = 1, two = [2]}
"""
    )
    assert found[("top",)] == 2
    assert found[("server", "address")] == 5
    assert found[("mqtt", "tls", "ca")] == 8
    assert found[("camera", 0, "id")] == 10
    assert found[("camera", 1)] == 11
    assert found[("camera", 1, "region", 0)] == 12
    assert found[("camera", 1, "more", "inline", "two", 0)] == 16
    assert ("no", "table") not in found
