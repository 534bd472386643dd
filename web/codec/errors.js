// What is wrong with a file, in one line for people. Anything else that is thrown is a fault of the page.
export class BadFile extends Error {}
