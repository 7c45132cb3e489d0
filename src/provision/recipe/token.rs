//! A recipe that tells its node by which word to call its pull.

use serde_json::{Map, Value, json};

use super::{Recipe, written};

/// The member of `env`; our puller reads the variable.
const PULL_TOKEN: &str = "PULL_TOKEN";

impl Recipe {
    /// The recipe with `token` in its `env`, if it has something to pull; one that says `PULL_TOKEN`
    /// itself means it.
    pub fn with_pull_token(mut self, token: &str) -> Recipe {
        let mut members: Map<String, Value> =
            serde_json::from_slice(&self.document).expect("a document is an object");
        if !members.contains_key("oci_url") {
            return self;
        }
        let env = members.entry("env").or_insert_with(|| json!({}));
        let env = env.as_object_mut().expect("the schema wants an object");
        // Nodes read the names in capitals.
        if env.keys().any(|name| name.eq_ignore_ascii_case(PULL_TOKEN)) {
            return self;
        }
        env.insert(PULL_TOKEN.to_owned(), json!(token));
        self.document = written(&members);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use serde_json::{Value, json};

    fn document(recipe: &Value) -> Value {
        let recipe = check(recipe.to_string().as_bytes()).recipe.expect("valid");
        let recipe = recipe.with_pull_token("word");
        assert!(check(recipe.document()).recipe.is_ok());
        serde_json::from_slice(recipe.document()).expect("JSON")
    }

    #[test]
    fn what_pulls_is_given_a_word_and_what_has_one_keeps_it() {
        let mut recipe = json!({"task_target": "a.target", "oci_url": "host/image:1"});
        assert_eq!(document(&recipe)["env"], json!({"PULL_TOKEN": "word"}));
        recipe["env"] = json!({"A": "b"});
        assert_eq!(
            document(&recipe)["env"],
            json!({"A": "b", "PULL_TOKEN": "word"})
        );
        recipe["env"] = json!({"pull_token": "own"});
        assert_eq!(document(&recipe), recipe);
        let without = json!({"task_target": "a.target"});
        assert_eq!(document(&without), without);
    }
}
