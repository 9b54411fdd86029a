"""From clicks, a box, or nothing to a mask: `Desk` answers, `cascade` is the weight-free default, others come by entry point.

    alpha of the picture -> flood of a plain background from the border -> GrabCut around the click or in the box

The first one that can answer does. docs/page.md says what to expect of each.
"""
