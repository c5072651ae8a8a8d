"""The embedded world: a Panda-like arm at a table, built from data, run by plain MuJoCo.

    suites.py   the worlds as data (spec.py says what a world is made of)
    panda.py    the arm: kinematics, limits, shapes; urdf.py and mjcf.py write it out
    layout.py   initial states from seeds
    control.py  actions to joint targets; world.py steps; render.py draws; expert.py solves
"""
