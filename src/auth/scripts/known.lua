-- Whether this epoch is trusted, and nothing else.
return { epoch, 'known' }
