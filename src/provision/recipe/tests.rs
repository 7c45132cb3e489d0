//! The check as a whole: the guide's recipes, every field, every alias, and any bytes at all.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LINUX: &str = include_str!("../../../tests/recipes/guide-linux.json");
const WINDOWS: &str = include_str!("../../../tests/recipes/guide-windows.json");

fn accepted(recipe: &Value) -> (Recipe, Vec<Notice>) {
    let checked = check(recipe.to_string().as_bytes());
    match checked.recipe {
        Ok(recipe) => (recipe, checked.notices),
        Err(problems) => panic!("{recipe}: {:#?}", problems.listed()),
    }
}

fn document(recipe: &Value) -> Value {
    serde_json::from_slice(accepted(recipe).0.document()).expect("a document is JSON")
}

fn problems(recipe: &Value) -> Vec<(String, &'static str)> {
    let problems = check(recipe.to_string().as_bytes()).recipe;
    let problems = problems.expect_err(&format!("{recipe} should have been refused"));
    let pair = |problem: &Problem| (problem.place.field(), problem.code);
    problems.listed().iter().map(pair).collect()
}

fn notices(recipe: &Value) -> Vec<(String, &'static str)> {
    let checked = check(recipe.to_string().as_bytes());
    let pair = |notice: &Notice| (notice.place.field(), notice.code);
    checked.notices.iter().map(pair).collect()
}

/// A recipe with nothing but what `target` needs, and `more`.
fn recipe(target: &str, more: Value) -> Value {
    let mut recipe = match target {
        "linux" => json!({
            "task_target": "install-linux.target",
            "target_disk": "/dev/sda",
            "oci_url": "controller.example.com:8080/os-images/debian:12",
            "partition_layout": [{"size": "100%"}],
        }),
        "windows" => json!({
            "task_target": "install-windows.target",
            "target_disk": "/dev/sda",
            "oci_url": "controller.example.com:8080/os-images/windows-server:2022",
        }),
        "esxi" => json!({"task_target": "install-esxi.target", "ks_cfg": "vmaccepteula\n"}),
        "firmware" => json!({
            "task_target": "supermicro-update.target",
            "firmware_url": "https://files.example.com/bios.zip",
        }),
        _ => json!({"task_target": "burn-in.target"}),
    };
    for (name, value) in more.as_object().expect("more is an object") {
        recipe[name] = value.clone();
    }
    recipe
}

#[test]
fn the_guides_recipes_are_taken_as_printed() {
    let linux = check(LINUX.as_bytes());
    let linux_recipe = linux.recipe.expect("the guide's recipe is good");
    let document: Value = serde_json::from_slice(linux_recipe.document()).unwrap();
    assert_eq!(
        document["partition_layout"],
        json!([
            {"mountpoint": "/boot/efi", "size": "512M", "format": "vfat", "type_guid": "ef00"},
            {"mountpoint": "/", "size": "100%", "format": "ext4", "type_guid": "8300"},
        ])
    );
    let Some(Payload::Text(user_data)) = linux_recipe.user_data() else {
        panic!("cloud_init has become user_data");
    };
    let (first, rest) = user_data.split_once('\n').unwrap();
    assert_eq!(first, "#cloud-config");
    let cloud_config: Value = serde_json::from_str(rest).unwrap();
    let submitted: Value = serde_json::from_str(LINUX).unwrap();
    assert_eq!(cloud_config, submitted["cloud_init"]);
    assert_eq!(document["user_data"], user_data.as_str());
    let said: Vec<String> = linux.notices.iter().map(Notice::to_string).collect();
    assert_eq!(
        said,
        [
            "partitions: read as partition_layout (alias)",
            "partitions[0]: read as an EFI system partition, type ef00 (alias)",
            "partitions[1].size: read as \"100%\": what the others leave (alias)",
            "partitions[1]: read as a Linux file system, type 8300 (alias)",
            "cloud_init: read as user_data: #cloud-config and the object (alias)",
        ]
    );

    let windows = check(WINDOWS.as_bytes());
    let windows_recipe = windows.recipe.expect("the guide's recipe is good");
    let document: Value = serde_json::from_slice(windows_recipe.document()).unwrap();
    assert_eq!(
        document["partition_layout"],
        json!([
            {"mountpoint": "MSR", "size": "128M", "format": "none", "type_guid": "0c01"},
            {"mountpoint": "C:", "size": "100%", "format": "ntfs", "type_guid": "0700"},
        ])
    );
    assert!(
        windows
            .notices
            .iter()
            .any(|notice| notice.code == "layout.no_efi")
    );
}

#[test]
fn what_needs_no_turning_stays_byte_for_byte() {
    let submitted = b"{ \"$schema\": \"x\",\n\t\"task_target\" : \"a.target\" }\r\n";
    let checked = check(submitted);
    assert_eq!(checked.recipe.unwrap().document(), submitted);
    let turned = check(b"{\"task_target\":\"a.target\",\"description\":\"d\"}");
    assert_eq!(
        turned.recipe.unwrap().document(),
        b"{\"metadata\":{\"description\":\"d\"},\"task_target\":\"a.target\"}\n"
    );
}

#[test]
fn a_turned_recipe_is_taken_again_and_stays_as_it_is() {
    for text in [LINUX, WINDOWS] {
        let once = check(text.as_bytes()).recipe.unwrap();
        let twice = check(once.document()).recipe.unwrap();
        assert_eq!(once.document(), twice.document());
        assert_eq!(once.user_data(), twice.user_data());
    }
}

#[test]
fn each_target_names_what_it_needs() {
    for target in ["linux", "windows", "esxi", "firmware", "other"] {
        let whole = recipe(target, json!({}));
        accepted(&whole);
        let needed: Vec<&String> = whole.as_object().unwrap().keys().collect();
        for name in needed {
            let mut without = whole.clone();
            without.as_object_mut().unwrap().remove(name);
            if name == "task_target" {
                assert_eq!(problems(&without), [("task_target".to_owned(), "required")]);
            } else {
                assert_eq!(problems(&without), [(name.clone(), "required")], "{target}");
            }
        }
    }
    assert_eq!(
        notices(&recipe("other", json!({}))),
        [("task_target".to_owned(), "task_target.other")]
    );
}

#[test]
fn all_problems_come_at_once_with_the_place_as_submitted_and_what_would_be_right() {
    let checked = check(
        br#"{
            "task_target": "install-linux",
            "target_disk": "/dev/../sda",
            "oci_url": "http://host/repo",
            "partitions": [{"size": "12X", "mount": 7, "fstype": "zfs"}, {"mount": "/"}],
            "env": {"A B": "x", "C": 1},
            "wim_index": 0,
            "disk": "/dev/sda",
            "notes": "a", "notes": "b"
        }"#,
    );
    let problems = checked.recipe.expect_err("nothing in it is right");
    let lines: Vec<String> = problems.listed().iter().map(Problem::to_string).collect();
    for (field, code) in [
        ("disk", "additionalProperties"),
        ("env.A B", "propertyNames"),
        ("env.C", "type"),
        ("notes", "duplicate"),
        ("oci_url", "pattern"),
        ("partitions[0].fstype", "enum"),
        ("partitions[0].mount", "type"),
        ("partitions[0].size", "pattern"),
        ("partitions[1].size", "required"),
        ("target_disk", "pattern"),
        ("task_target", "pattern"),
        ("wim_index", "minimum"),
    ] {
        let of_field = lines
            .iter()
            .find(|line| line.starts_with(&format!("{field}: ")));
        let line = of_field.unwrap_or_else(|| panic!("{field} is not in {lines:#?}"));
        assert!(line.ends_with(&format!("({code})")), "{line}");
    }
    assert_eq!(lines.len(), 12, "{lines:#?}");
    let size = &problems.listed()[7];
    assert_eq!(
        serde_json::to_value(size).unwrap(),
        json!({
            "field": "partitions[0].size",
            "path": "/partitions/0/size",
            "code": "pattern",
            "message": "expected a text: a number with K, M, G, T or P (\"512M\", \"20GiB\"), a part \
                        of the disk (\"30%\"), or \"100%\" for what the others leave",
        })
    );
}

#[test]
fn no_finding_quotes_a_value() {
    let secret = "hunter2-is-the-password";
    let checked = check(
        json!({
            "task_target": secret, "target_disk": secret, "oci_url": format!("u:{secret}@host/a"),
            "firmware_url": format!("{secret} {secret}"), "env": {"PASSWORD": format!("{secret}\n")},
            "partitions": [{"size": secret, "mount": [secret], "fstype": secret, "label": secret.repeat(9)}],
            "cloud_init": secret, "network": secret, "notes": {"a": secret}, "wim_index": secret,
            "user_data": {"content": secret, "url": secret}, "windows_product_key": secret,
        })
        .to_string()
        .as_bytes(),
    );
    let problems = checked.recipe.expect_err("nothing in it is right");
    assert!(problems.listed().len() >= 10);
    let said = format!("{:?}{:?}", problems, checked.notices);
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn fields_take_what_the_contract_lists_and_nothing_else() {
    let name_256 = "n".repeat(256);
    for (field, good, bad) in [
        (
            "task_target",
            vec![json!("burn_in-2.x.target")],
            vec![
                json!("a.service"),
                json!(".target"),
                json!("a/b.target"),
                json!(1),
            ],
        ),
        (
            "target_disk",
            [
                "/dev/sda",
                "/dev/sdaa",
                "/dev/vdb",
                "/dev/hdc",
                "/dev/nvme0n1",
                "/dev/md127",
                "/dev/mapper/mpath-a.b",
                r"\\.\PhysicalDrive0",
            ]
            .map(|disk| json!(disk))
            .to_vec(),
            [
                "/dev/sda1",
                "sda",
                "/dev/mapper/..",
                "/dev/mapper/a..b",
                "/dev/sda\n",
                "/dev/",
            ]
            .map(|disk| json!(disk))
            .to_vec(),
        ),
        (
            "oci_url",
            vec![
                json!("host/a"),
                json!("host:8080/a/b/c_d-e.f"),
                json!("[::1]:8080/a:1"),
                json!("[::1]/a"),
                json!(format!("host/a@sha256:{}", "0a".repeat(32))),
            ],
            vec![
                json!("https://host/a"),
                json!("host"),
                json!("host/A"),
                json!("host:/a"),
                json!("host:0/a"),
                json!("host:65536/a"),
                json!("host/a@sha256:00"),
                json!("host/a:"),
                json!("host/a b"),
                json!(format!("host/{name_256}")),
            ],
        ),
        (
            "firmware_url",
            vec![json!("https://host/a.zip"), json!("tftp://10.0.0.1/a")],
            vec![json!("a b"), json!("/a"), json!("")],
        ),
        (
            "wim_index",
            vec![json!(1), json!(9)],
            vec![json!(0), json!(1.5), json!("1")],
        ),
        (
            "schema_version",
            vec![json!("1"), json!("1.12")],
            vec![json!("2"), json!(1)],
        ),
        (
            "notes",
            vec![json!("n".repeat(2000))],
            vec![json!("n".repeat(2001)), json!({})],
        ),
        (
            "metadata",
            vec![json!({"a": [1, {"b": null}]})],
            vec![json!([]), json!("a")],
        ),
        (
            "env",
            vec![json!({"A": "", "b_1": "x y=z"})],
            vec![
                json!({"1": ""}),
                json!({"A": "x\ny"}),
                json!({"A": "x\u{0}"}),
                json!({"a": "", "A": ""}),
                json!({"target_disk": "/dev/sdb"}),
                json!({"path": "/x"}),
                json!({"LD_AUDIT": "/x"}),
                json!([]),
            ],
        ),
        (
            "user_data",
            vec![
                json!("x"),
                json!(""),
                json!({"content": "x"}),
                json!({"url": "https://host/u"}),
                json!({"path": "u"}),
                json!("é".repeat(1 << 19)),
            ],
            vec![
                json!({}),
                json!({"content": "x", "path": "u"}),
                json!({"text": "x"}),
                json!(["x"]),
                json!("é".repeat((1 << 19) + 1)),
                json!({"content": "é".repeat((1 << 19) + 1)}),
                json!("x".repeat((1 << 20) + 1)),
            ],
        ),
        (
            "ks_cfg",
            vec![json!("x".repeat(256 << 10))],
            vec![
                json!("x".repeat((256 << 10) + 1)),
                json!("é".repeat((128 << 10) + 1)),
            ],
        ),
        ("unattend_xml", vec![json!("<x/>")], vec![json!(1)]),
        ("unknown", vec![], vec![json!(1)]),
    ] {
        let with = |value: &Value| {
            let mut recipe = recipe("other", json!({}));
            recipe[field] = value.clone();
            recipe
        };
        for value in good {
            accepted(&with(&value));
        }
        for value in bad {
            let found = problems(&with(&value));
            assert_eq!(found.len(), 1, "{field}: {found:?}");
            assert!(found[0].0.starts_with(field), "{field}: {found:?}");
        }
    }
}

#[test]
fn partitions_take_what_the_contract_lists_and_nothing_else() {
    for (field, good, bad) in [
        (
            "size",
            vec![
                "1", "512M", "20GiB", "20GB", "7B", "1%", "99%", "100%", "5Ki",
            ],
            vec!["05", "-1", "1.5G", "101%", "0%", "10 G", "10g", "1Z"],
        ),
        (
            "type_guid",
            vec!["ef00", "EF00", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"],
            vec!["ef0", "xyz0", "c12a7328f81f11d2ba4b00a0c93ec93b"],
        ),
        (
            "format",
            vec![
                "vfat", "ext4", "xfs", "btrfs", "ntfs", "swap", "raw", "none",
            ],
            vec!["zfs", "EXT4", ""],
        ),
        (
            "label",
            vec!["", "cidata"],
            vec!["a label of more than 32 characters"],
        ),
    ] {
        let with = |value: &str| {
            let mut entry = json!({"size": "1G"});
            entry[field] = json!(value);
            recipe("linux", json!({"partition_layout": [entry]}))
        };
        for value in good {
            accepted(&with(value));
        }
        for value in bad {
            let found = problems(&with(value));
            let place = format!("partition_layout[0].{field}");
            assert_eq!(found.len(), 1, "{value}: {found:?}");
            assert_eq!(found[0].0, place, "{value}");
        }
    }
    let layout = |layout: Value| recipe("linux", json!({ "partition_layout": layout }));
    accepted(&layout(json!(vec![json!({"size": "1G"}); 64])));
    for (bad, field, code) in [
        (json!([]), "partition_layout", "minItems"),
        (
            json!(vec![json!({"size": "1G"}); 65]),
            "partition_layout",
            "maxItems",
        ),
        (json!({}), "partition_layout", "type"),
        (json!(["1G"]), "partition_layout[0]", "type"),
        (json!([{}]), "partition_layout[0].size", "required"),
        (
            json!([{"size": "1G", "bootable": 1}]),
            "partition_layout[0].bootable",
            "type",
        ),
        (
            json!([{"size": "1G", "mount": "/"}]),
            "partition_layout[0].mount",
            "additionalProperties",
        ),
        (
            json!([{"size": "100%"}, {"size": "100%"}]),
            "partition_layout[1].size",
            "layout.rest",
        ),
        (
            json!([{"size": "60%"}, {"size": "60%"}]),
            "partition_layout",
            "layout.percent",
        ),
        (
            json!([{"size": "1G", "mountpoint": "/"}, {"size": "1G", "mountpoint": "/"}]),
            "partition_layout[1].mountpoint",
            "layout.mountpoint",
        ),
    ] {
        assert_eq!(problems(&layout(bad)), [(field.to_owned(), code)]);
    }
    let rest_first = layout(json!([{"size": "100%"}, {"size": "16M", "label": "cidata"}]));
    assert_eq!(
        notices(&rest_first),
        [("partition_layout[0].size".to_owned(), "layout.rest")]
    );
}

#[test]
fn every_other_spelling_is_turned_and_said() {
    let turned = |more: Value, field: &str| {
        let recipe = recipe("other", more);
        assert!(
            notices(&recipe).contains(&(field.to_owned(), "alias")),
            "{recipe}: {:?}",
            notices(&recipe)
        );
        document(&recipe)
    };
    assert_eq!(turned(json!({"ks.cfg": "x"}), "ks.cfg")["ks_cfg"], "x");
    assert_eq!(
        turned(json!({"recipe_version": "1.0"}), "recipe_version")["schema_version"],
        "1.0"
    );
    assert_eq!(
        turned(json!({"notes": ["a", "b"]}), "notes")["notes"],
        "a\nb"
    );
    assert_eq!(
        turned(
            json!({"description": "d", "metadata": {"a": 1}}),
            "description"
        )["metadata"],
        json!({"a": 1, "description": "d"})
    );
    for name in [
        "drivers",
        "post_install_scripts",
        "windows_edition",
        "windows_product_key",
    ] {
        let mut more = json!({});
        more[name] = json!(["x"]);
        assert_eq!(
            turned(more, name)["metadata"]["extensions"][name],
            json!(["x"])
        );
    }
    assert_eq!(
        turned(
            json!({"cloud_init": {"user_data": "#!/bin/sh\n"}}),
            "cloud_init"
        )["user_data"],
        "#!/bin/sh\n"
    );
    let more = json!({"cloud_init": {"user_data": "x", "hostname": "h"}});
    assert_eq!(
        turned(more, "cloud_init")["user_data"],
        "#cloud-config\n{\"hostname\":\"h\",\"user_data\":\"x\"}\n"
    );

    let (with_network, _) = accepted(&recipe("other", json!({"network": {"version": 2}})));
    assert_eq!(with_network.network_config(), Some("{\"version\":2}\n"));
    assert!(!String::from_utf8_lossy(with_network.document()).contains("network"));

    for (entry, kind, format) in [
        (json!({"mount": "/boot/efi"}), "ef00", json!("vfat")),
        (json!({"mount": "EFI"}), "ef00", json!("vfat")),
        (
            json!({"mount": "ESP", "fstype": "vfat"}),
            "ef00",
            json!("vfat"),
        ),
        (json!({"mount": "MSR"}), "0c01", json!("none")),
        (json!({"fstype": "reserved"}), "0c01", json!("none")),
        (json!({"mount": "C:"}), "0700", Value::Null),
        (json!({"fstype": "ntfs"}), "0700", json!("ntfs")),
        (json!({"mount": "swap"}), "8200", json!("swap")),
        (json!({"fstype": "swap"}), "8200", json!("swap")),
        (json!({"mount": "/", "fstype": "xfs"}), "8300", json!("xfs")),
        (
            json!({"mount": "/", "type_guid": "0700"}),
            "0700",
            Value::Null,
        ),
    ] {
        for size in [json!("0"), json!(0), json!("")] {
            let mut entry = entry.clone();
            entry["size"] = size;
            let turned = turned(json!({"partitions": [{"size": "1M"}, entry]}), "partitions");
            let entry = &turned["partition_layout"][1];
            assert_eq!(entry["type_guid"], kind, "{entry}");
            assert_eq!(
                entry.get("format").unwrap_or(&Value::Null),
                &format,
                "{entry}"
            );
            assert_eq!(entry["size"], "100%");
        }
    }
}

#[test]
fn two_spellings_of_one_thing_are_refused_whatever_they_say() {
    for (more, field) in [
        (
            json!({"partitions": [], "partition_layout": [{"size": "1G"}]}),
            "partitions",
        ),
        (json!({"cloud_init": {}, "user_data": "x"}), "cloud_init"),
        (json!({"ks.cfg": "x", "ks_cfg": "x"}), "ks.cfg"),
        (
            json!({"recipe_version": "1", "schema_version": "1"}),
            "recipe_version",
        ),
        (
            json!({"description": "d", "metadata": {"description": "d"}}),
            "description",
        ),
        (
            json!({"drivers": 1, "metadata": {"extensions": {"drivers": 1}}}),
            "drivers",
        ),
        (
            json!({"partitions": [{"size": "1G", "mount": "/", "mountpoint": "/"}]}),
            "partitions[0].mount",
        ),
    ] {
        assert_eq!(
            problems(&recipe("other", more)),
            [(field.to_owned(), "alias")]
        );
    }
    let more = json!({"partitions": [{"size": "0"}, {"size": "1G"}]});
    assert_eq!(
        problems(&recipe("other", more)),
        [("partitions[0].size".to_owned(), "layout.rest")]
    );
    for (more, field) in [
        (json!({"cloud_init": "text"}), "cloud_init"),
        (json!({"network": []}), "network"),
        (json!({"notes": ["a", 1]}), "notes"),
        (
            json!({"drivers": [], "metadata": {"extensions": 1}}),
            "metadata.extensions",
        ),
    ] {
        assert_eq!(
            problems(&recipe("other", more)),
            [(field.to_owned(), "type")]
        );
    }
    let too_long = json!({"cloud_init": {"user_data": "x".repeat((1 << 20) + 1)}});
    assert_eq!(
        problems(&recipe("other", too_long)),
        [("cloud_init.user_data".to_owned(), "maxLength")]
    );
}

/// The longest of their kinds, some of which end at a bound and others go through to the end.
#[test]
fn hostile_recipes_of_full_length_have_an_answer() {
    let of_4_mib = |head: &str, unit: &str, tail: &str| {
        let count = (RECIPE_BYTES_MAX - head.len() - tail.len()) / unit.len();
        format!("{head}{}{tail}", unit.repeat(count))
    };
    for hostile in [
        of_4_mib("{\"a\":[", "0,", "0]}"),
        of_4_mib("{\"oci_url\":\"h/", "a_", "\"}"),
        of_4_mib("{\"target_disk\":\"/dev/mapper/", "a.", "\"}"),
        of_4_mib("{\"cloud_init\":{\"a\":\"", "\u{80}", "\"}}"),
        of_4_mib("", "[", ""),
        of_4_mib("", "{\"a\":", ""),
        of_4_mib("{\"", "a", ""),
    ] {
        let problems = check(hostile.as_bytes()).recipe;
        let problems = problems.expect_err("all of them are wrong");
        assert!(problems.listed().len() <= PROBLEMS_MAX);
    }
}

/// Anything that could stand in a recipe.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        prop_oneof![Just("0"), Just("100%"), Just("MSR"), Just("1G"), Just("é")]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    let known = [
        "task_target",
        "target_disk",
        "oci_url",
        "partition_layout",
        "partitions",
        "cloud_init",
        "user_data",
        "network",
        "env",
        "notes",
        "metadata",
        "description",
        "extensions",
        "drivers",
        "mount",
        "mountpoint",
        "size",
        "fstype",
        "format",
        "content",
        "url",
        "ks.cfg",
        "wim_index",
    ];
    prop_oneof![
        4 => prop::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => ".{0,12}",
    ]
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = check(&bytes);
    }

    #[test]
    fn any_tree_has_the_same_answer_twice_and_a_good_one_is_stable(
        members in prop::collection::vec((name(), value()), 0..8),
    ) {
        let mut recipe = Value::Object(members.into_iter().collect());
        if recipe.get("task_target").is_none() {
            recipe["task_target"] = json!("a.target");
        }
        let text = recipe.to_string();
        match (check(text.as_bytes()).recipe, check(text.as_bytes()).recipe) {
            (Ok(recipe), Ok(again)) => {
                prop_assert_eq!(recipe.document(), again.document());
                let turned = check(recipe.document()).recipe;
                prop_assert!(turned.is_ok_and(|turned| turned.document() == recipe.document()));
            }
            (Err(problems), Err(again)) => {
                prop_assert!(!problems.listed().is_empty());
                prop_assert_eq!(problems.listed(), again.listed());
            }
            _ => prop_assert!(false, "two answers to {}", text),
        }
    }
}
