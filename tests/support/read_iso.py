"""Prints what pycdlib finds in a CD image, as JSON; PyYAML and jsonschema read what is in it."""

import base64
import io
import json
import sys

import jsonschema
import pycdlib
import yaml

iso = pycdlib.PyCdlib()
iso.open(sys.argv[1])


def content(**path):
    out = io.BytesIO()
    iso.get_file_from_iso_fp(out, **path)
    return base64.b64encode(out.getvalue()).decode()


def short_time(t):
    return [1900 + t.years_since_1900, t.month, t.day_of_month, t.hour, t.minute, t.second, t.gmtoffset]


def long_time(t):
    return [t.year, t.month, t.dayofmonth, t.hour, t.minute, t.second, t.gmtoffset]


def files(tree):
    return [child for child in iso.list_children(**{tree: "/"}) if not child.is_dir()]


plain = {f.file_identifier().decode(): content(iso_path="/" + f.file_identifier().decode()) for f in files("iso_path")}
joliet = {}
for f in files("joliet_path"):
    name = f.file_identifier().decode("utf-16-be")
    joliet[name] = content(joliet_path="/" + name)
rock_ridge, modes, times = {}, {}, []
for f in files("rr_path"):
    name = f.rock_ridge.name().decode()
    rock_ridge[name] = content(rr_path="/" + name)
    px, tf = f.rock_ridge.dr_entries.px_record, f.rock_ridge.dr_entries.tf_record
    modes[name] = [oct(px.posix_file_mode), px.posix_file_links, px.posix_user_id, px.posix_group_id]
    times += [short_time(t) for t in (f.date, tf.access_time, tf.modification_time, tf.attribute_change_time)]
root = iso.get_record(iso_path="/")
px = list(iso.list_children(rr_path="/"))[0].rock_ridge.dr_entries.px_record
modes["."] = [oct(px.posix_file_mode), px.posix_file_links, px.posix_user_id, px.posix_group_id]
times.append(short_time(root.date))
for volume in (iso.pvd, iso.joliet_vd):
    times += [long_time(volume.volume_creation_date), long_time(volume.volume_modification_date)]

recipe = json.loads(base64.b64decode(rock_ridge["recipe.json"]))
schema = json.loads(base64.b64decode(rock_ridge["recipe.schema.json"]))
jsonschema.Draft7Validator.check_schema(schema)
jsonschema.Draft7Validator(schema).validate(recipe)
yamls = {
    name: yaml.safe_load(base64.b64decode(rock_ridge[name]))
    for name in ("user-data", "network-config")
    if name in rock_ridge
}

print(json.dumps({
    "plain": plain,
    "joliet": joliet,
    "rock_ridge": rock_ridge,
    "modes": modes,
    "times": [list(t) for t in sorted(set(map(tuple, times)))],
    "volume_id": iso.pvd.volume_identifier.decode().rstrip(),
    "joliet_volume_id": iso.joliet_vd.volume_identifier.decode("utf-16-be").rstrip(),
    "sectors": iso.pvd.space_size,
    "yaml": yamls,
}))
