//! What the application tells this crate about its tables: names, keys, columns, counters, migrations.
//!
//! Apart because it is data, written once as constants in the application. Nothing here knows what a table means.

use ibex_sql::Migration;

/// How a column is read, copied and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A signed 64-bit number.
    Int,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Blob,
}

/// One column; never NULL.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
}

impl Column {
    /// A number.
    #[must_use]
    pub const fn int(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Int,
        }
    }
    /// A text.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Text,
        }
    }
    /// Bytes.
    #[must_use]
    pub const fn blob(name: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Blob,
        }
    }
}

/// A table of user data. Its primary key is the user's number followed by `key`.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The column with the user's number, the first of the primary key.
    pub user: &'static str,
    /// The rest of the primary key; may be empty.
    pub key: &'static [Column],
    /// All other columns.
    pub rest: &'static [Column],
}

impl Table {
    /// Key and other columns in their fixed order, without the user's.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        self.key.iter().chain(self.rest)
    }
}

/// A column in which numbers of an area are found, to rebuild a lost counter.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// The table.
    pub table: &'static str,
    /// Its user column.
    pub user: &'static str,
    /// The column with the number.
    pub column: &'static str,
}

/// A number space of each user.
#[derive(Debug, Clone, Copy)]
pub struct Counter {
    /// Its letter.
    pub area: char,
    /// Everywhere a number of it may still be seen.
    pub sources: &'static [Source],
}

/// All an application says about its databases.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Name under which the migrations are kept; also the application's in messages.
    pub component: &'static str,
    /// The global table with the columns `userid`, `clusterid` and `epoch`.
    pub user_table: &'static str,
    /// Every table of user data, parents before children.
    pub tables: &'static [Table],
    /// Every number space.
    pub counters: &'static [Counter],
    /// Steps of the global database.
    pub global_steps: &'static [Migration],
    /// Steps of each cluster.
    pub cluster_steps: &'static [Migration],
}

/// The one table of user data that this crate owns and moves with the user.
pub(crate) const USERCOUNTER: Table = Table {
    name: "usercounter",
    user: "userid",
    key: &[Column::text("area")],
    rest: &[Column::int("max")],
};

impl Layout {
    /// Every table that moves with a user.
    pub(crate) fn moving(&self) -> impl Iterator<Item = &Table> {
        std::iter::once(&USERCOUNTER).chain(self.tables)
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        self.moving().find(|table| table.name == name)
    }
}
