//! SHA-256 and SHA-512 (FIPS 180-4), written out plainly.
//!
//! Slow and short on purpose: the scripts' digests must not come from the code under test.
//! The round constants are computed from the primes that define them, so there is no table in
//! which a digit could be wrong unseen.

use std::fmt::Write;

/// `sha256:` and 64 digits.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&sha256_bytes(bytes)))
}

/// `sha512:` and 128 digits.
pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&sha512_bytes(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

fn sha256_bytes(bytes: &[u8]) -> Vec<u8> {
    let constants: Vec<u32> = first_primes(64)
        .map(|prime| (fraction(prime, 3) >> 32) as u32)
        .collect();
    let mut state: [u32; 8] = [0; 8];
    for (word, prime) in state.iter_mut().zip(first_primes(8)) {
        *word = (fraction(prime, 2) >> 32) as u32;
    }
    let padded = pad(bytes, 64, 8);
    let mut schedule = [0u32; 64];
    for block in padded.chunks_exact(64) {
        for (word, four) in schedule.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes(four.try_into().expect("chunks of four"));
        }
        for at in 16..64 {
            let (early, late) = (schedule[at - 15], schedule[at - 2]);
            let small0 = early.rotate_right(7) ^ early.rotate_right(18) ^ (early >> 3);
            let small1 = late.rotate_right(17) ^ late.rotate_right(19) ^ (late >> 10);
            schedule[at] = schedule[at - 16]
                .wrapping_add(small0)
                .wrapping_add(schedule[at - 7])
                .wrapping_add(small1);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for at in 0..64 {
            let big1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let first = h
                .wrapping_add(big1)
                .wrapping_add((e & f) ^ (!e & g))
                .wrapping_add(constants[at])
                .wrapping_add(schedule[at]);
            let big0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let second = big0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(second));
        }
        for (word, added) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = word.wrapping_add(added);
        }
    }
    state.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn sha512_bytes(bytes: &[u8]) -> Vec<u8> {
    let constants: Vec<u64> = first_primes(80).map(|prime| fraction(prime, 3)).collect();
    let mut state: [u64; 8] = [0; 8];
    for (word, prime) in state.iter_mut().zip(first_primes(8)) {
        *word = fraction(prime, 2);
    }
    let padded = pad(bytes, 128, 16);
    let mut schedule = [0u64; 80];
    for block in padded.chunks_exact(128) {
        for (word, eight) in schedule.iter_mut().zip(block.chunks_exact(8)) {
            *word = u64::from_be_bytes(eight.try_into().expect("chunks of eight"));
        }
        for at in 16..80 {
            let (early, late) = (schedule[at - 15], schedule[at - 2]);
            let small0 = early.rotate_right(1) ^ early.rotate_right(8) ^ (early >> 7);
            let small1 = late.rotate_right(19) ^ late.rotate_right(61) ^ (late >> 6);
            schedule[at] = schedule[at - 16]
                .wrapping_add(small0)
                .wrapping_add(schedule[at - 7])
                .wrapping_add(small1);
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
        for at in 0..80 {
            let big1 = e.rotate_right(14) ^ e.rotate_right(18) ^ e.rotate_right(41);
            let first = h
                .wrapping_add(big1)
                .wrapping_add((e & f) ^ (!e & g))
                .wrapping_add(constants[at])
                .wrapping_add(schedule[at]);
            let big0 = a.rotate_right(28) ^ a.rotate_right(34) ^ a.rotate_right(39);
            let second = big0.wrapping_add((a & b) ^ (a & c) ^ (b & c));
            (h, g, f, e) = (g, f, e, d.wrapping_add(first));
            (d, c, b, a) = (c, b, a, first.wrapping_add(second));
        }
        for (word, added) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            *word = word.wrapping_add(added);
        }
    }
    state.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// The message, a one bit, zeros, and the length in bits as `length_bytes` big-endian bytes.
fn pad(bytes: &[u8], block_bytes: usize, length_bytes: usize) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    while !(padded.len() + length_bytes).is_multiple_of(block_bytes) {
        padded.push(0);
    }
    padded.resize(padded.len() + length_bytes - 8, 0);
    padded.extend((bytes.len() as u64 * 8).to_be_bytes());
    padded
}

fn first_primes(count: usize) -> impl Iterator<Item = u64> {
    (2u64..)
        .filter(|n| (2..*n).all(|divisor| n % divisor != 0))
        .take(count)
}

/// The first 64 bits of the fraction of `prime`'s square (2) or cube (3) root.
fn fraction(prime: u64, root: u32) -> u64 {
    // The largest r with r^root <= prime * 2^(64 * root); its low 64 bits are the fraction.
    // r stays below 2^69, so r^3 needs 207 bits: compare in pieces of 32 bits.
    let (mut low, mut high) = (0u128, 1u128 << 69);
    while high - low > 1 {
        let middle = (low + high) / 2;
        let mut power = vec![1u32];
        for _ in 0..root {
            power = multiply(&power, &limbs(middle));
        }
        let mut bound = vec![0u32; 2 * root as usize];
        bound.extend(limbs(u128::from(prime)));
        if less_or_equal(&power, &bound) {
            low = middle
        } else {
            high = middle
        }
    }
    low as u64
}

fn limbs(mut number: u128) -> Vec<u32> {
    let mut limbs = Vec::new();
    while number > 0 {
        limbs.push(number as u32);
        number >>= 32;
    }
    limbs
}

fn multiply(left: &[u32], right: &[u32]) -> Vec<u32> {
    let mut product = vec![0u32; left.len() + right.len()];
    for (i, l) in left.iter().enumerate() {
        let mut carry = 0u64;
        for (j, r) in right.iter().enumerate() {
            let sum = u64::from(product[i + j]) + u64::from(*l) * u64::from(*r) + carry;
            product[i + j] = sum as u32;
            carry = sum >> 32;
        }
        product[i + right.len()] = carry as u32;
    }
    product
}

fn less_or_equal(left: &[u32], right: &[u32]) -> bool {
    let longest = left.len().max(right.len());
    for at in (0..longest).rev() {
        let (l, r) = (left.get(at).unwrap_or(&0), right.get(at).unwrap_or(&0));
        if l != r {
            return l < r;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_examples_come_out() {
        assert_eq!(
            sha256(b"abc"),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            sha256(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(
            sha512(b"abc"),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
    }
}
