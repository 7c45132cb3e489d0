//! What a BMC says when it refuses: in Redfish's extended form, or in none.

use serde_json::Value;

use super::document::{list, shown, text};

/// A refusal, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// For the operator; never empty after [`read`].
    pub reason: String,
    /// Properties that it names, however it does.
    named: Vec<String>,
    /// A property is missing rather than refused.
    pub missing: bool,
}

impl Refusal {
    pub fn names(&self, property: &str) -> bool {
        self.named.iter().any(|name| name == property)
    }

    pub fn names_nothing(&self) -> bool {
        self.named.is_empty()
    }
}

/// Reads the body of a refusal; `known` are the properties that were sent.
pub fn read(body: &Value, known: &[&str]) -> Refusal {
    let error = body.get("error").unwrap_or(&Value::Null);
    let mut refusal = Refusal::default();
    let (mut reasons, mut ids) = (Vec::new(), Vec::new());
    for message in list(error, &["@Message.ExtendedInfo"]) {
        let said = text(message, &["Message"]);
        let id = text(message, &["MessageId"]).unwrap_or_default();
        refusal.missing |= id.contains("Missing");
        ids.extend((!id.is_empty()).then(|| shown(id)));
        reasons.extend(said.map(shown));
        let arguments = list(message, &["MessageArgs"]).filter_map(Value::as_str);
        let related = list(message, &["RelatedProperties"])
            .filter_map(Value::as_str)
            .map(|pointer| pointer.rsplit('/').next().unwrap_or_default());
        let exact: Vec<&str> = arguments.chain(related).collect();
        for property in known {
            let in_words = said.is_some_and(|said| has_word(said, property));
            if exact.contains(property) || in_words {
                refusal.named.push((*property).to_owned());
            }
        }
    }
    if let Some(said) = text(error, &["message"]) {
        if reasons.is_empty() {
            reasons.push(shown(said));
        }
        let named = known.iter().filter(|property| has_word(said, property));
        refusal.named.extend(named.map(|one| (*one).to_owned()));
    }
    // Sentences before codes: the codes of most refusals say "general error".
    let said = if reasons.is_empty() { ids } else { reasons };
    refusal.reason = match said.len() {
        0 => "without a reason".to_owned(),
        _ => shown(&said.join("; ")),
    };
    refusal
}

fn has_word(sentence: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric();
    sentence.match_indices(word).any(|(start, _)| {
        !sentence[..start].ends_with(is_letter)
            && !sentence[start + word.len()..].starts_with(is_letter)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KNOWN: &[&str] = &["Image", "Inserted", "WriteProtected"];

    fn extended(message: Value) -> Refusal {
        read(
            &json!({"error": {"@Message.ExtendedInfo": [message]}}),
            KNOWN,
        )
    }

    #[test]
    fn a_property_is_named_by_argument_pointer_or_sentence() {
        for message in [
            json!({"MessageId": "Base.1.8.PropertyUnknown", "MessageArgs": ["Inserted"]}),
            json!({"Message": "no", "RelatedProperties": ["#/Inserted"]}),
            json!({"Message": "The property 'Inserted' is not known."}),
        ] {
            let refusal = extended(message.clone());
            assert!(refusal.names("Inserted"), "{message}");
            assert!(!refusal.names("Image"), "{message}");
            assert!(!refusal.missing);
        }
        let missing =
            json!({"MessageId": "Base.1.8.ActionParameterMissing", "MessageArgs": ["Image"]});
        assert!(extended(missing).missing);
    }

    #[test]
    fn a_word_within_a_word_names_nothing() {
        let refusal = read(
            &json!({"error": {"message": "ImageName NotInserted"}}),
            KNOWN,
        );
        assert!(refusal.names_nothing());
        assert_eq!(refusal.reason, "ImageName NotInserted");
    }

    #[test]
    fn a_sentence_is_a_better_reason_than_a_code() {
        let coded = json!([{"MessageId": "Base.1.0.GeneralError"}]);
        let body =
            json!({"error": {"message": "404 from the image", "@Message.ExtendedInfo": coded}});
        assert_eq!(read(&body, KNOWN).reason, "404 from the image");
        let body = json!({"error": {"@Message.ExtendedInfo": coded}});
        assert_eq!(read(&body, KNOWN).reason, "Base.1.0.GeneralError");
    }

    #[test]
    fn a_refusal_without_words_has_a_reason_all_the_same() {
        for body in [Value::Null, json!([]), json!({"error": 7}), json!("no")] {
            assert_eq!(read(&body, KNOWN).reason, "without a reason");
        }
    }
}
