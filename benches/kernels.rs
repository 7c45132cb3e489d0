//! The kernels, alone: hash, head parser, chunk decoder of the data path; recipe check and CD image of
//! provisioning.
//!
//! `cargo bench` measures; `cargo test --benches` runs each once, so that they cannot rot. Inputs are what
//! clients send, not what flatters the code.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use provisioner_controller::hash::Hasher;
use provisioner_controller::http1::{BodyDecoder, BodyFraming, RequestHead};
use provisioner_controller::oci::Algorithm;
use provisioner_controller::provision::{recipe, task_iso};
use uuid::Uuid;

const MIB: usize = 1 << 20;

/// One step of an upload through either algorithm; sha256 is the bound of every push.
fn hash(criterion: &mut Criterion) {
    let bytes = vec![0x5a; MIB];
    let mut group = criterion.benchmark_group("hash, 1 MiB");
    group.throughput(Throughput::Bytes(MIB as u64));
    for (name, algorithm) in [("sha256", Algorithm::Sha256), ("sha512", Algorithm::Sha512)] {
        let mut hasher = Hasher::new(&[algorithm]);
        group.bench_function(name, |bencher| {
            bencher.iter(|| hasher.update(black_box(&bytes)))
        });
    }
    group.finish();
}

/// The two heads that a registry sees most, with the fields that Go's client sends.
fn head_parser(criterion: &mut Criterion) {
    let digest = "3b".repeat(32);
    let get = format!(
        "GET /v2/os-images/debian/blobs/sha256:{digest} HTTP/1.1\r\n\
         Host: registry.example:8080\r\n\
         User-Agent: containerd/2.1.0+unknown\r\n\
         Accept: application/vnd.oci.image.layer.v1.tar+gzip, */*\r\n\
         Authorization: Basic bm9kZTpzZWNyZXQ=\r\n\
         Range: bytes=1048576-\r\n\
         Accept-Encoding: identity\r\n\r\n"
    );
    let put = format!(
        "PUT /v2/tools/bench/blobs/uploads/0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11?digest=sha256%3A{digest} HTTP/1.1\r\n\
         Host: registry.example:8080\r\n\
         User-Agent: oras/1.3.6\r\n\
         Content-Length: 10737418240\r\n\
         Authorization: Basic bm9kZTpzZWNyZXQ=\r\n\
         Content-Type: application/octet-stream\r\n\
         Accept-Encoding: gzip\r\n\r\n"
    );
    let mut group = criterion.benchmark_group("head parser");
    for (name, head) in [("GET of a blob", get), ("PUT of an upload", put)] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let parsed = RequestHead::parse(black_box(head.as_bytes()));
                let (parsed, taken_bytes) = parsed.expect("well formed").expect("complete");
                assert_eq!(taken_bytes, head.len());
                parsed
            });
        });
    }
    group.finish();
}

/// Chunk sizes: Go's `io.Copy` (podman, skopeo) sends 32 KiB, and some proxies cut as fine as 4 KiB.
fn chunk_decoder(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("chunk decoder, 1 MiB of data");
    group.throughput(Throughput::Bytes(MIB as u64));
    for chunk_bytes in [32 << 10, 4 << 10] {
        let coded = chunked(MIB, chunk_bytes);
        group.bench_function(format!("chunks of {} KiB", chunk_bytes >> 10), |bencher| {
            bencher.iter(|| {
                let mut decoder = BodyDecoder::new(BodyFraming::Chunked);
                let (mut at, mut data_bytes) = (0, 0);
                loop {
                    let decoded = decoder
                        .decode(black_box(&coded[at..]))
                        .expect("the coding is well formed");
                    at += decoded.consumed;
                    data_bytes += decoded.data.len();
                    if decoded.end {
                        break;
                    }
                }
                assert_eq!(data_bytes, MIB);
                data_bytes
            });
        });
    }
    group.finish();
}

fn chunked(data_bytes: usize, chunk_bytes: usize) -> Vec<u8> {
    let mut coded = Vec::new();
    for _ in 0..data_bytes / chunk_bytes {
        coded.extend_from_slice(format!("{chunk_bytes:x}\r\n").as_bytes());
        coded.resize(coded.len() + chunk_bytes, 0x5a);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

/// The operator guide's recipe, and the largest and slowest to read that can be sent.
fn recipe_check(criterion: &mut Criterion) {
    let guide = include_str!("../tests/recipes/guide-linux.json").to_owned();
    let entries = "{\"mount\":\"/\",\"size\":0},".repeat(20_000);
    let hostile = format!("{{\"partitions\":[{entries}{{}}]}}");
    let mut group = criterion.benchmark_group("recipe check");
    for (name, recipe, is_good) in [
        ("the guide's", guide, true),
        ("20 000 partitions", hostile, false),
    ] {
        group.throughput(Throughput::Bytes(recipe.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let checked = recipe::check(black_box(recipe.as_bytes()));
                assert_eq!(checked.recipe.is_ok(), is_good);
                checked
            });
        });
    }
    group.finish();
}

/// The guide's recipe as a CD, and one with as much text as a recipe can hold.
fn task_image(criterion: &mut Criterion) {
    let guide = include_str!("../tests/recipes/guide-linux.json").to_owned();
    let text = "x".repeat(MIB);
    let large = format!(
        "{{\"task_target\":\"a.target\",\"user_data\":\"{text}\",\"unattend_xml\":\"{text}\"}}"
    );
    let mut group = criterion.benchmark_group("task ISO");
    for (name, submitted) in [("the guide's", guide), ("2 MiB of text", large)] {
        let recipe = recipe::check(submitted.as_bytes())
            .recipe
            .expect("it is good");
        let build = || task_iso::build(black_box(&recipe), Uuid::nil(), 0).expect("it is small");
        group.throughput(Throughput::Bytes(build().len() as u64));
        group.bench_function(name, |bencher| bencher.iter(build));
    }
    group.finish();
}

criterion_group!(
    kernels,
    hash,
    head_parser,
    chunk_decoder,
    recipe_check,
    task_image
);
criterion_main!(kernels);
