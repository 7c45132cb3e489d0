//! One file's name in each of the three trees.

use super::IsoError;

/// ECMA-119's level 2 (10.2): file name and extension together.
const PLAIN_BYTES_MAX: usize = 30;
const VOLUME_ID_BYTES_MAX: usize = 32;

/// The plain name in its two parts; Rock Ridge and Joliet have the name as it was given.
pub(super) struct Names {
    stem: String,
    extension: String,
}

impl Names {
    pub(super) fn of(name: &str) -> Result<Names, IsoError> {
        let is_taken =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let is_name = name.bytes().all(is_taken)
            && !name.starts_with('.')
            && !name.ends_with('.')
            && !stem.is_empty()
            && stem.len() + extension.len() <= PLAIN_BYTES_MAX;
        if !is_name {
            return Err(IsoError::Name {
                name: name.to_owned(),
            });
        }
        Ok(Names {
            stem: plain(stem),
            extension: plain(extension),
        })
    }

    /// `RECIPE.JSON;1`, `USER_DATA.;1`: the point and the version are always there (7.5.1).
    pub(super) fn plain(&self) -> String {
        format!("{}.{};1", self.stem, self.extension)
    }

    /// The order of a folder: a shorter part comes first, as if filled with spaces (9.3).
    pub(super) fn order(&self) -> (&str, &str) {
        (&self.stem, &self.extension)
    }
}

fn plain(part: &str) -> String {
    let character = |c: char| match c {
        '.' | '-' => '_',
        _ => c.to_ascii_uppercase(),
    };
    part.chars().map(character).collect()
}

pub(super) fn volume_id(id: &str) -> Result<&str, IsoError> {
    let is_taken = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if (1..=VOLUME_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_taken) {
        Ok(id)
    } else {
        Err(IsoError::VolumeId { id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_upper_case_with_one_point() {
        for (name, expected) in [
            ("recipe.json", "RECIPE.JSON;1"),
            ("recipe.schema.json", "RECIPE_SCHEMA.JSON;1"),
            ("user-data", "USER_DATA.;1"),
            ("network-config", "NETWORK_CONFIG.;1"),
            ("unattend.xml", "UNATTEND.XML;1"),
            ("ks.cfg", "KS.CFG;1"),
        ] {
            assert_eq!(Names::of(name).unwrap().plain(), expected);
        }
    }
}
