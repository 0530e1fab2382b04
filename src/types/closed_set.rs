//! Closed lists: an enum, the list of its variants and the name of each, from one table.

/// Declares an enum without data together with `ALL` (every variant, in the order of the table), `name()` (the text beside the
/// variant), `NAMES` (the names in the same order) and a `Display` that writes the name. Because there is only one table, no list of
/// the variants can miss one.
///
/// ```text
/// closed_set! {
///     /// The watches, named after what they watch.
///     pub enum Watch {
///         /// Pods of this node.
///         Pods = "pods",
///     }
/// }
/// ```
macro_rules! closed_set {
    (
        $(#[$meta:meta])*
        $vis:vis enum $set:ident {
            $($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $set {
            $($(#[$doc])* $variant),+
        }

        impl $set {
            /// Every variant, in the order of the declaration.
            $vis const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The names, in the same order.
            $vis const NAMES: [&'static str; Self::ALL.len()] = [$($name),+];

            /// The stable name.
            $vis const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }
        }

        impl ::std::fmt::Display for $set {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use closed_set;

#[cfg(test)]
mod tests {
    closed_set! {
        enum Fruit {
            Apple = "apple",
            Pear = "pear",
        }
    }

    #[test]
    fn the_list_has_every_variant_and_its_name() {
        assert_eq!(Fruit::ALL, [Fruit::Apple, Fruit::Pear]);
        assert_eq!((Fruit::ALL.map(Fruit::name), Fruit::NAMES), (["apple", "pear"], ["apple", "pear"]));
        assert_eq!(Fruit::Pear.to_string(), "pear");
    }
}
