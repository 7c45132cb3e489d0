//! Secrets that a BMC may send back: it is told a password and a signed URL, and many quote what they
//! refuse. What operators read of it goes through here.

/// A shorter word stands in too many texts by chance.
const WORD_BYTES_MIN: usize = 4;
/// A part of a URL that is as long may be what signs it.
const PART_BYTES_MIN: usize = 20;
/// By so much of its beginning such a part is known again, also where it was cut off.
const BEGINNING_BYTES: usize = 12;

/// What is not to be shown.
#[derive(Debug, Default)]
pub struct Discretion {
    words: Vec<String>,
    beginnings: Vec<String>,
}

impl Discretion {
    pub fn keep(&mut self, word: &str) {
        if word.len() >= WORD_BYTES_MIN && !self.words.iter().any(|known| known == word) {
            self.words.push(word.to_owned());
        }
    }

    /// The long parts of its path and query, the file's name apart.
    pub fn keep_url(&mut self, url: &str) {
        let (_, rest) = url.split_once("://").unwrap_or(("", url));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
        let folders = folders.split('/').skip(1);
        let values = query
            .split('&')
            .map(|pair| pair.split_once('=').map_or(pair, |(_, value)| value));
        for part in folders.chain(values) {
            // An id is no secret, and says of which job something is.
            let is_id = uuid::Uuid::try_parse(part).is_ok();
            if let Some(beginning) = part.get(..BEGINNING_BYTES)
                && part.len() >= PART_BYTES_MIN
                && !is_id
                && !self.beginnings.iter().any(|known| known == beginning)
            {
                self.beginnings.push(beginning.to_owned());
            }
        }
    }

    /// `text` without them.
    pub fn show(&self, text: &str) -> String {
        let mut shown = text.to_owned();
        for word in &self.words {
            shown = shown.replace(word.as_str(), "…");
        }
        for beginning in &self.beginnings {
            let mut pieces = shown.split(beginning.as_str());
            let mut plain = pieces.next().unwrap_or_default().to_owned();
            for piece in pieces {
                plain.push('…');
                plain.push_str(piece.trim_start_matches(is_of_a_part));
            }
            shown = plain;
        }
        shown
    }
}

fn is_of_a_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED: &str = "http://h:80/media/tasks/0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11/1700000000-c2lnbmF0dXJlLW9mLTI1Ni1iaXRz/task.iso";

    #[test]
    fn what_signs_a_url_is_not_shown_and_where_it_leads_is() {
        let mut discretion = Discretion::default();
        discretion.keep_url(SIGNED);
        discretion.keep_url(
            "http://h/a-maintenance-image-of-ours.iso?sig=c2lnbmF0dXJlLW9mLTI1Ni1i&expires=1",
        );
        let text = format!("The value '{SIGNED}' of Image is wrong (c2lnbmF0dXJlLW9mLTI1Ni1i)");
        assert_eq!(
            discretion.show(&text),
            "The value 'http://h:80/media/tasks/0b6b2a5e-8c4f-4d27-9e55-1a5b6f2f4c11/…/task.iso' \
             of Image is wrong (…)"
        );
        let cut = &SIGNED[..SIGNED.len() - 20];
        assert!(discretion.show(cut).ends_with("/…"), "{cut}");
        let plain = "a-maintenance-image-of-ours.iso is not there";
        assert_eq!(discretion.show(plain), plain);
    }

    #[test]
    fn a_password_is_not_shown_and_a_letter_is_no_password() {
        let mut discretion = Discretion::default();
        discretion.keep("calvin");
        discretion.keep("a");
        discretion.keep("");
        assert_eq!(discretion.show("a calvin, calvin"), "a …, …");
    }
}
