"""Stands for LIBERO's benchmarks: two tasks in each suite instead of ten."""
import os
from typing import NamedTuple

from libero.libero import get_libero_path

TASKS = {
    "libero_spatial": ["pick_up_the_bowl_on_the_stove", "pick_up_the_bowl_on_the_cookie_box"],
    "libero_object": ["pick_up_the_milk", "pick_up_the_butter"],
    "libero_goal": ["open_the_drawer", "put_the_bowl_on_the_plate"],
    "libero_10": ["KITCHEN_SCENE3_turn_on_the_stove", "LIVING_ROOM_SCENE2_put_both_in_the_basket"],
    "libero_90": ["KITCHEN_SCENE1_open_the_drawer", "STUDY_SCENE1_pick_up_the_Book"],
}


class Task(NamedTuple):
    name: str
    language: str
    problem: str
    problem_folder: str
    bddl_file: str
    init_states_file: str


def language_of(name):
    start = name.find("SCENE") + 7 if name[0].isupper() else 0
    return " ".join(name[start:].split("_"))


class Benchmark:
    def __init__(self, name):
        print("[info] using task orders [0, 1]")  # LIBERO prints this, too
        self.name = name
        self.tasks = [
            Task(task, language_of(task), "Libero", name, f"{task}.bddl", f"{task}.pruned_init")
            for task in TASKS[name]
        ]

    def get_num_tasks(self):
        return len(self.tasks)

    def get_task(self, i):
        return self.tasks[i]

    def get_task_bddl_file_path(self, i):
        task = self.tasks[i]
        return os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)

    def get_task_init_states(self, i):
        import torch

        task = self.tasks[i]
        path = os.path.join(
            get_libero_path("init_states"), task.problem_folder, task.init_states_file
        )
        return torch.load(path, weights_only=False)


def get_benchmark(benchmark_name):
    return lambda: Benchmark(benchmark_name.lower())
