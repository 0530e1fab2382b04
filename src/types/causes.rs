//! The text of an error with all its causes.

use std::error::Error;

/// The text of an error, followed by the texts of all its causes. If the text of an error already ends with the text of its
/// cause, the text of the cause is not repeated. The causes are necessary for errors from kube, whose own text often ends with
/// "error returned by service".
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Link {
        #[error("the last one")]
        Last,
        #[error("{0}")]
        Same(#[source] Box<Self>),
        #[error("it failed: {0}")]
        Repeats(#[source] Box<Self>),
        #[error("error returned by service")]
        Hides(#[source] Box<Self>),
    }

    #[test]
    fn a_chain_says_everything_and_nothing_twice() {
        let error = Link::Hides(Box::new(Link::Same(Box::new(Link::Repeats(Box::new(Link::Last))))));
        assert_eq!(causes(&error), "error returned by service: it failed: the last one");
        assert_eq!(causes(&Link::Last), "the last one");
        let error = anyhow::Error::new(Link::Hides(Box::new(Link::Last))).context("cannot ask");
        assert_eq!(causes(error.as_ref()), "cannot ask: error returned by service: the last one");
    }
}
