//! Who may see what. Exactly one function decides (spec/journal.md 7.2), for pages, feeds, pictures, machine interfaces and mails.
//!
//! Apart and pure, so that it can be tested as a table and so that no second opinion grows elsewhere. It knows no database: its
//! caller brings the relation between the journal and the reader.

/// How an entry or photo is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Security {
    /// Everybody.
    Public,
    /// The owner; in a community its administrators.
    Private,
    /// Those whose trust mask shares a bit: bit 0 all friends, bits 1 to 60 the owner's groups. In a community: members.
    Mask(u64),
}

/// Bit 0: all friends.
pub const FRIENDS: Security = Security::Mask(1);

impl Security {
    /// The two columns of the tables.
    #[must_use]
    pub fn columns(self) -> (i64, i64) {
        match self {
            Self::Public => (0, 0),
            Self::Private => (1, 0),
            Self::Mask(mask) => (2, mask.cast_signed()),
        }
    }

    /// From the two columns; anything unknown protects most.
    #[must_use]
    pub fn from_columns(security: i64, allowmask: i64) -> Self {
        match security {
            0 => Self::Public,
            2 => Self::Mask(allowmask.cast_unsigned()),
            _ => Self::Private,
        }
    }

    /// As pages and forms call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Mask(_) => "friends",
        }
    }

    /// What a form said; anything unknown protects most.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "public" => Self::Public,
            "friends" => FRIENDS,
            _ => Self::Private,
        }
    }
}

/// What kind of account a journal belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Kind {
    /// A person.
    Person,
    /// A community.
    Community,
    /// A feed from elsewhere.
    Feed,
    /// Signed in from elsewhere.
    Identity,
}

impl Kind {
    /// The letter of the table.
    #[must_use]
    pub fn letter(self) -> &'static str {
        match self {
            Self::Person => "P",
            Self::Community => "C",
            Self::Feed => "Y",
            Self::Identity => "I",
        }
    }

    /// From the letter of the table.
    #[must_use]
    pub fn from_letter(letter: &str) -> Self {
        match letter {
            "C" => Self::Community,
            "Y" => Self::Feed,
            "I" => Self::Identity,
            _ => Self::Person,
        }
    }
}

/// What the reader is to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Relation {
    /// The journal is his own.
    pub is_owner: bool,
    /// He administers the community.
    pub is_administrator: bool,
    /// The owner's trust mask for him: 0 if he is not trusted (not a member), else the groups with bit 0 set.
    pub mask: u64,
}

/// Whether a reader of this relation may see something protected like this. A reader who is not logged in has the empty relation.
#[must_use]
pub fn may_see(kind: Kind, security: Security, reader: Relation) -> bool {
    match (security, kind) {
        (Security::Public, _) => true,
        _ if reader.is_owner => true,
        (Security::Private, Kind::Community) => reader.is_administrator,
        (Security::Private, Kind::Person | Kind::Feed | Kind::Identity) => false,
        (Security::Mask(_), Kind::Community) => reader.mask != 0 || reader.is_administrator,
        (Security::Mask(allow), Kind::Person | Kind::Feed | Kind::Identity) => {
            reader.mask & allow != 0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: Relation = Relation {
        is_owner: false,
        is_administrator: false,
        mask: 0,
    };
    const FRIEND: Relation = Relation {
        is_owner: false,
        is_administrator: false,
        mask: 1,
    };
    const GROUP_3: Relation = Relation {
        is_owner: false,
        is_administrator: false,
        mask: 0b1001,
    };
    const OWNER: Relation = Relation {
        is_owner: true,
        is_administrator: false,
        mask: 0,
    };
    const ADMIN: Relation = Relation {
        is_owner: false,
        is_administrator: true,
        mask: 0,
    };

    fn check(kind: Kind, security: Security, expected: [bool; 5]) {
        let seen =
            [STRANGER, FRIEND, GROUP_3, OWNER, ADMIN].map(|reader| may_see(kind, security, reader));
        assert_eq!(
            seen, expected,
            "{kind:?} {security:?}: stranger, friend, friend of group 3, owner, administrator"
        );
    }

    #[test]
    fn the_matrix_of_persons() {
        check(
            Kind::Person,
            Security::Public,
            [true, true, true, true, true],
        );
        check(Kind::Person, FRIENDS, [false, true, true, true, false]);
        check(
            Kind::Person,
            Security::Mask(0b1000),
            [false, false, true, true, false],
        );
        check(
            Kind::Person,
            Security::Mask(0),
            [false, false, false, true, false],
        );
        check(
            Kind::Person,
            Security::Private,
            [false, false, false, true, false],
        );
    }

    #[test]
    fn the_matrix_of_communities() {
        check(
            Kind::Community,
            Security::Public,
            [true, true, true, true, true],
        );
        check(Kind::Community, FRIENDS, [false, true, true, true, true]);
        check(
            Kind::Community,
            Security::Private,
            [false, false, false, true, true],
        );
    }

    #[test]
    fn unknown_columns_protect_most() {
        assert_eq!(Security::from_columns(7, 1), Security::Private);
        for security in [
            Security::Public,
            Security::Private,
            FRIENDS,
            Security::Mask(1 << 60),
        ] {
            let (column, mask) = security.columns();
            assert_eq!(Security::from_columns(column, mask), security);
        }
    }
}
