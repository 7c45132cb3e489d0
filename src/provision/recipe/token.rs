//! A recipe that tells its node of which job it is, and by which word to call its pull.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Recipe, written};

/// The members of `env`. Our puller reads the one, the node's report gives back the other.
const PULL_TOKEN: &str = "PULL_TOKEN";
const JOB_ID: &str = "JOB_ID";

impl Recipe {
    /// The recipe with `token` in its `env`, if it has something to pull.
    pub fn with_pull_token(self, token: &str) -> Recipe {
        match self.oci_url() {
            Some(_) => self.with_variable(PULL_TOKEN, token),
            None => self,
        }
    }

    /// The recipe with its job's id in its `env`: the report of a node that a former job has left
    /// behind shall not be taken for this job's.
    pub fn with_job(self, job: Uuid) -> Recipe {
        self.with_variable(JOB_ID, &job.to_string())
    }

    /// One that says `name` itself means it.
    fn with_variable(mut self, name: &str, value: &str) -> Recipe {
        let mut members: Map<String, Value> =
            serde_json::from_slice(&self.document).expect("a document is an object");
        let env = members.entry("env").or_insert_with(|| json!({}));
        let env = env.as_object_mut().expect("the schema wants an object");
        // Nodes read the names in capitals.
        if env.keys().any(|known| known.eq_ignore_ascii_case(name)) {
            return self;
        }
        env.insert(name.to_owned(), json!(value));
        self.document = written(&members);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use serde_json::{Value, json};
    use uuid::Uuid;

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
    #[test]
    fn every_recipe_says_of_which_job_it_is_unless_it_says_so_itself() {
        let of_job = |recipe: &Value| {
            let recipe = check(recipe.to_string().as_bytes()).recipe.expect("valid");
            let recipe = recipe.with_job(Uuid::from_u128(7));
            assert!(check(recipe.document()).recipe.is_ok());
            let document: Value = serde_json::from_slice(recipe.document()).expect("JSON");
            document["env"].clone()
        };
        let mut recipe = json!({"task_target": "a.target"});
        let id = "00000000-0000-0000-0000-000000000007";
        assert_eq!(of_job(&recipe), json!({"JOB_ID": id}));
        recipe["env"] = json!({"job_id": "own"});
        assert_eq!(of_job(&recipe), recipe["env"]);
    }
}
