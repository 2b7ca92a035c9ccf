"""Input of people, validated: a team's spec, a trigger's request, gates and their PromQL."""
