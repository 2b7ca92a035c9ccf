"""The generator of Dockerfiles for repositories that have none.

``repository`` reads the repository, ``detect`` chooses the language, the language's module makes a recipe, and
``generate`` renders it. A new language is one module, one entry in ``detect.LANGUAGES`` and one template,
``dockerfile.<name>.j2``.

The repository is hostile input: all of it that reaches a Dockerfile is validated by the language's module and quoted by
the template. Decisions that the repository leaves open are refused, never guessed.
"""
