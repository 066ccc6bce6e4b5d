"""Ids of actor classes that leave Ray's own random numbers unused; for `recipe.run.fork_server`.

The compiled part of Ray 2.60 seeds its random numbers when it first draws one. If a process draws
one and then forks, its copies all draw the same ids of objects and tasks, and Ray's store fails
("Seal() called on an object without a reference to it"). ``ray.remote`` draws an id for each class
of actors, which verl has many of, when they are imported. With this module imported before them,
these ids come from the operating system.
"""

import os

import ray.actor
from ray._raylet import ActorClassID


class FromTheSystem(ActorClassID):
    """Ray's id of an actor class, drawn elsewhere."""

    @classmethod
    def from_random(cls) -> "FromTheSystem":
        """Return a new id."""
        return cls(os.urandom(cls.size()))


ray.actor.ActorClassID = FromTheSystem
