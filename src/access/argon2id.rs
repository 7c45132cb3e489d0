//! An argon2id hash of a password, in the PHC form:
//! `$argon2id$v=19$m=65536,t=3,p=4$<salt>$<hash>`, base64 without padding.
//!
//! What a comparison costs stands in the hash, so it has a bound: a hash is a line in somebody's file,
//! and must not be able to stop the server.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

/// Memory of one comparison; the second choice of RFC 9106 takes a quarter.
const MEMORY_KIB_MAX: u32 = 256 << 10;
/// Memory times passes: a second or two on one processor.
const WORK_KIB_MAX: u64 = 2 << 20;
const LANES_MAX: u32 = 16;
const SALT_BYTES: std::ops::RangeInclusive<usize> = 8..=64;
const HASH_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// A hash that can be compared with.
#[derive(Clone)]
pub struct Argon2id {
    argon2: Argon2<'static>,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

impl Argon2id {
    /// `None`: it is none, or too dear.
    pub fn parse(text: &str) -> Option<Argon2id> {
        let rest = text.strip_prefix("$argon2id$v=19$")?;
        let [costs, salt, hash] = rest.split('$').collect::<Vec<_>>().try_into().ok()?;
        let [memory_kib, passes, lanes] = costs.split(',').collect::<Vec<_>>().try_into().ok()?;
        let memory_kib = cost(memory_kib, "m=").filter(|kib| *kib <= MEMORY_KIB_MAX)?;
        let lanes = cost(lanes, "p=").filter(|lanes| *lanes <= LANES_MAX)?;
        let passes = cost(passes, "t=")?;
        if u64::from(memory_kib) * u64::from(passes) > WORK_KIB_MAX {
            return None;
        }
        let decode = |text| BASE64_STANDARD_NO_PAD.decode(text).ok();
        let salt = decode(salt).filter(|salt| SALT_BYTES.contains(&salt.len()))?;
        let hash = decode(hash).filter(|hash| HASH_BYTES.contains(&hash.len()))?;
        let params = Params::new(memory_kib, passes, lanes, Some(hash.len())).ok()?;
        Some(Argon2id {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            salt,
            hash,
        })
    }

    /// In KiB of memory gone over.
    pub fn work_kib(&self) -> u64 {
        let params = self.argon2.params();
        u64::from(params.m_cost()) * u64::from(params.t_cost())
    }

    /// The hash of nobody's password, which takes as long to compare as this one.
    pub fn of_nobody(&self) -> String {
        let params = self.argon2.params();
        let encode = |length| BASE64_STANDARD_NO_PAD.encode(vec![0; length]);
        format!(
            "$argon2id$v=19$m={},t={},p={}${}${}",
            params.m_cost(),
            params.t_cost(),
            params.p_cost(),
            encode(self.salt.len()),
            encode(self.hash.len())
        )
    }

    /// Slow by intent. Memory that cannot be had is a wrong password.
    pub fn verify(&self, password: &str) -> bool {
        let mut computed = vec![0; self.hash.len()];
        let done = self
            .argon2
            .hash_password_into(password.as_bytes(), &self.salt, &mut computed);
        // All of it is looked at, so that the time taken tells nothing of where they part.
        let differences = computed.iter().zip(&self.hash);
        let differ = differences.fold(0, |differ, (one, other)| differ | (one ^ other));
        done.is_ok() && differ == 0
    }
}

/// Digits alone, without a zero before them: one number has one spelling.
fn cost(text: &str, name: &str) -> Option<u32> {
    let digits = text.strip_prefix(name)?;
    let number: u32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the reference implementation's own tests: `password` with the salt `somesalt`.
    const KNOWN: [&str; 2] = [
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
        "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc",
    ];

    #[test]
    fn the_reference_s_hashes_are_understood() {
        for text in KNOWN {
            let hash = Argon2id::parse(text).expect("it is one");
            assert!(hash.verify("password"), "{text}");
            assert!(!hash.verify("passwore") && !hash.verify(""), "{text}");
            let nobody = Argon2id::parse(&hash.of_nobody()).expect("it is one");
            assert_eq!(nobody.work_kib(), hash.work_kib());
            assert!(!nobody.verify("password"));
        }
    }

    #[test]
    fn what_is_none_or_too_dear_is_refused_before_it_costs_anything() {
        let [good, _] = KNOWN;
        for (part, instead) in [
            ("m=256", "m=262145"),
            ("m=256,t=2", "m=262144,t=9"),
            ("t=2", "t=4294967295"),
            ("p=1", "p=17"),
            ("m=256", "m=7"),
            ("t=2", "t=0"),
            ("p=1", "p=0"),
            ("m=256", "m=+256"),
            ("m=256", "m=0256"),
            ("m=256,t=2", "t=2,m=256"),
            ("p=1", "p=1,keyid=a"),
            ("argon2id", "argon2i"),
            ("v=19", "v=16"),
            ("c29tZXNhbHQ", "c29t"),
            ("c29tZXNhbHQ", "c29tZXNhbHQ="),
            (
                "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
                "nf65EOgLrQMR",
            ),
            ("$nf65", "$nf65$"),
            ("$nf65", "$\u{e9}f65"),
        ] {
            let text = good.replacen(part, instead, 1);
            assert!(Argon2id::parse(&text).is_none(), "{text}");
        }
        for largest in ["m=262144,t=8", "m=65536,t=3", "m=19456,t=2"] {
            let text = good.replacen("m=256,t=2", largest, 1);
            assert!(Argon2id::parse(&text).is_some(), "{text}");
        }
    }
}
