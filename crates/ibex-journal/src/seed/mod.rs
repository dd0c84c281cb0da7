//! The demonstration's content: [`corpus`] has the words, [`plan`] decides who says them to whom, [`picture`] draws, this module writes the plan into a site.

pub mod corpus;
pub mod picture;
pub mod plan;
