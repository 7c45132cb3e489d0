//! What a client may rely on: the value that was acknowledged, or one asked for since.

use std::collections::BTreeSet;

/// The values something may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promise<T>(BTreeSet<T>);

impl<T: Ord> Promise<T> {
    /// Asked for and not acknowledged: it may come to that or not.
    pub fn may_become(&mut self, value: T) {
        self.0.insert(value);
    }

    /// Acknowledged: it is that.
    pub fn is(&mut self, value: T) {
        self.0 = BTreeSet::from([value]);
    }

    pub fn allows(&self, value: &T) -> bool {
        self.0.contains(value)
    }

    pub fn is_surely(&self, value: &T) -> bool {
        self.0.len() == 1 && self.allows(value)
    }
}

impl<T: Ord + Default> Default for Promise<T> {
    fn default() -> Self {
        Self(BTreeSet::from([T::default()]))
    }
}
