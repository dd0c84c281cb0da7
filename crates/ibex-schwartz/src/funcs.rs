//! Function names and their numbers, cached per database.
//!
//! Apart because the cache has rules of its own: a miss asks the database again (functions appear while we run), and names go
//! through the row the database returns, because MySQL's collation finds `Foo` for `FOO`.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::tables::marks;
use ibex_sql::{Value, params};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

#[derive(Debug, Default)]
pub(crate) struct Funcs {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_name: HashMap<String, u32>,
    by_id: HashMap<u32, String>,
}

const FIND: &str = "SELECT funcid, funcname FROM {p}funcmap WHERE funcname = ?";
const MAKE: &str = "INSERT INTO {p}funcmap (funcname) VALUES (?)";

impl Funcs {
    fn cached(&self, name: &str) -> Option<u32> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_name
            .get(name)
            .copied()
    }

    fn name(&self, id: u32) -> Option<String> {
        self.known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .get(&id)
            .cloned()
    }

    fn learn(&self, asked: &str, id: u32, name: &str) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.by_name.insert(asked.to_owned(), id);
        known.by_id.insert(id, name.to_owned());
    }
}

/// The number of a function inside a transaction, made when it is new; nothing is remembered.
pub(crate) async fn funcid_of(work: &mut Work<'_>, name: &str) -> Result<u32, Error> {
    if let Some(row) = work.query_one(FIND, params![name]).await? {
        return Ok(row.get(0)?);
    }
    match work.execute(MAKE, params![name]).await {
        Ok(_) => {}
        Err(Error::Sql(error)) if error.is_unique_violation() => {}
        Err(error) => return Err(error),
    }
    let row = work.query_one(FIND, params![name]).await?;
    match row {
        Some(row) => Ok(row.get(0)?),
        None => Err(Error::Sql(ibex_sql::Error::new(
            ibex_sql::ErrorKind::Deadlock,
            format!("function {name} is being made by another"),
        ))),
    }
}

impl Database {
    /// The number of `name`, made when it is new.
    pub(crate) async fn funcid(&self, name: &str) -> Result<u32, Error> {
        if let Some(id) = self.funcs().cached(name) {
            return Ok(id);
        }
        if let Some(id) = self.find_func(name).await? {
            return Ok(id);
        }
        // In a transaction: one that makes the same function at this moment may be refused its name before the other's commit, and a reader
        // sees it only after that.
        let (scope, new) = (self.scope(), name.to_owned());
        let id = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, new) = (scope.clone(), new.clone());
                Box::pin(async move { funcid_of(&mut scope.on(tx), &new).await })
            })
            .await?;
        // With the name as the database has it.
        Ok(self.find_func(name).await?.unwrap_or(id))
    }

    async fn find_func(&self, name: &str) -> Result<Option<u32>, Error> {
        match self.query(FIND, params![name]).await?.first() {
            Some(row) => {
                let id = row.get(0)?;
                self.funcs().learn(name, id, &row.get::<String>(1)?);
                Ok(Some(id))
            }
            None => Ok(None),
        }
    }

    /// As [`Database::funcid`] inside a transaction that may be rolled back, so nothing is remembered.
    pub(crate) async fn funcid_in(&self, work: &mut Work<'_>, name: &str) -> Result<u32, Error> {
        if let Some(id) = self.funcs().cached(name) {
            return Ok(id);
        }
        funcid_of(work, name).await
    }

    /// The numbers of those names that the database knows; a worker's functions need not exist yet.
    pub(crate) async fn funcids(&self, names: &[String]) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        let mut missing = Vec::new();
        for name in names {
            match self.funcs().cached(name) {
                Some(id) => ids.push(id),
                None => missing.push(name.as_str()),
            }
        }
        if !missing.is_empty() {
            let template = format!(
                "SELECT funcid, funcname FROM {{p}}funcmap WHERE funcname IN ({})",
                marks(missing.len())
            );
            for row in self
                .query(
                    &template,
                    missing.iter().map(|name| Value::from(*name)).collect(),
                )
                .await?
            {
                let (id, name): (u32, String) = (row.get(0)?, row.get(1)?);
                for asked in missing
                    .iter()
                    .filter(|asked| **asked == name || asked.to_lowercase() == name.to_lowercase())
                {
                    self.funcs().learn(asked, id, &name);
                }
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The name as the database has it, which an argument is sealed for; `given` as long as nobody asked.
    pub(crate) fn name_of<'n>(&self, id: u32, given: &'n str) -> std::borrow::Cow<'n, str> {
        match self.funcs().name(id) {
            Some(name) => name.into(),
            None => given.into(),
        }
    }

    /// The name of a number; the database is asked again on a miss, because others register functions, too.
    pub(crate) async fn funcname(&self, id: u32) -> Result<Option<String>, Error> {
        if let Some(name) = self.funcs().name(id) {
            return Ok(Some(name));
        }
        match self
            .query(
                "SELECT funcname FROM {p}funcmap WHERE funcid = ?",
                params![id],
            )
            .await?
            .first()
        {
            Some(row) => {
                let name: String = row.get(0)?;
                self.funcs().learn(&name, id, &name);
                Ok(Some(name))
            }
            None => Ok(None),
        }
    }

    /// Every function of the database, in order of number.
    pub(crate) async fn all_funcs(&self) -> Result<Vec<(u32, String)>, Error> {
        let rows = self
            .query(
                "SELECT funcid, funcname FROM {p}funcmap ORDER BY funcid",
                params![],
            )
            .await?;
        rows.iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect()
    }
}
